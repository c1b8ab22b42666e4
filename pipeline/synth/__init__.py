"""The synth stage: labelled synthetic scans or sequences in the layout of BU-3DFE or BU-4DFE."""
