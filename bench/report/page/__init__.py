"""The page of `nfkern bench report`: results of every kind in one HTML file that needs nothing else."""
