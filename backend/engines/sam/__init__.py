"""The SAM family: promptable mask decoders behind a joint space of CLIP and DINO."""
