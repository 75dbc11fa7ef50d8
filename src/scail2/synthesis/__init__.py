"""How motion pairs are made: generators, checks of what they made, and the loop around them."""
