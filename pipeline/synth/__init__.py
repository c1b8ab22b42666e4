"""The synthesis stage: labelled synthetic scans, stored as BU-3DFE or BU-4DFE store theirs."""
