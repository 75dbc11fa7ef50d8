"""What a job takes: operations, bytes and seconds of every stage, and which placement of the model a machine has room for."""
