"""Whether everything that an installation needs is there: one line for each thing, and what to do where one is not."""
