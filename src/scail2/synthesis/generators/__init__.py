"""What makes a clip of a character that performs a motion: other people's models, our own, and the puppet renderer."""
