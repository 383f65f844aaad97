"""What ``rdd-deploy data check`` finds in a recipe's data, as a page and as JSON. Imports no torch."""
