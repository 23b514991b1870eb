"""Address space by strace: what it prints is read line by line and put into the same interval map."""
