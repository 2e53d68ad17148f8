"""What was said, and where it lies in the joint visual-semantic space."""
