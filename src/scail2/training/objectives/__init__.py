"""What training makes smaller: flow matching, supervised by part maps where there are some."""
