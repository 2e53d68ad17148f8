"""SEEM in plain PyTorch: one decoder that answers text, drawings, references and memory in one joint space."""
