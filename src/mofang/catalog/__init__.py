"""The catalogue: chips, servers and models as data files with one schema each, and what is read from them."""
