"""What this machine has and what it needs: public files, the folder they are kept in, downloads, and a diagnosis."""
