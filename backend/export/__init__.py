"""Export: submitted annotations, read from every shape, written as what trainers and other tools read."""
