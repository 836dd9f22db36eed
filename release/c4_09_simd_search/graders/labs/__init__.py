"""The checks of each lab, one package a lab."""
