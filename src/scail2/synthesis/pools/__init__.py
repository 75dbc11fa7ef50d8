"""What pairs are made of: motions that somebody performs, and characters that are to perform them."""
