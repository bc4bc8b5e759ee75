"""inspect: finds defects in industrial inspection batches with autoencoders trained on good parts."""

__version__ = "0.1.0"
#: How records name what wrote them.
TOOL = f"inspect {__version__}"
