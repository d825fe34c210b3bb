"""What Conche keeps, of every format there has been, and what happens where two versions meet."""
