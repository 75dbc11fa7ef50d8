"""What a run is asked to do: settings for every face, their values and where their files lie."""
