"""What is done with a bundle as a thing: shown, verified, packed into one file and unpacked. Needs no backend."""
