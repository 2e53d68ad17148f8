"""What Maskloom does about a prompt: features, mask decoders, labelling, Label Studio, the server."""

__version__ = "0.2.0"
