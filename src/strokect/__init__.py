"""strokect: CT analysis for acute ischaemic stroke. Research use only."""

__version__ = "0.1.0"
RESEARCH_USE_ONLY = "Research use only. Not a medical device; not for diagnosis or treatment."
VIRTUAL_ONLY = "Trained on virtual patients only. Nothing is known of how it does on real patients."
