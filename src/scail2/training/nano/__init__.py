"""What only the embedded checkpoint needs: its autoencoder's basis, its refining decoder, growing the network."""
