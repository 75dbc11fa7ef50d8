"""What can be known to go wrong before a frame is rendered: masks, framing, cuts, and all of it as one preflight."""
