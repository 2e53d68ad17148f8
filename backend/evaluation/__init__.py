"""How good predictions are, measured against what people submitted, and which of them a person should look at first."""
