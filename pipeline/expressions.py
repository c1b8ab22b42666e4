"""The expressions of the field: two-letter codes, and the words for them."""

# Neutral last: the six basic expressions in the field's order, then the absence of one.
EXPRESSIONS = {
    "AN": "anger",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happiness",
    "SA": "sadness",
    "SU": "surprise",
    "NE": "neutral",
}
