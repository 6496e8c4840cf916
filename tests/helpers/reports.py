"""What measures of the comparison give, made up."""


def attention_result() -> dict:
    """As `attention_or_none.measure` gives it."""

    def entries(scores):
        return [{"score": score, "interval": [score - 1, score + 1]} for score in scores]

    return {
        "data": {
            "metric": "sacrebleu",
            "unit": "words",
            "buckets": [[1, 5], [6, 30]],
            "counts": [20, 11],
            "scores": {"plain": entries([40.0, 20.0]), "looking": entries([41.0, 39.0])},
            "kinds": {"plain": "GRU, no attention, 1+1 layers of 8", "looking": "Transformer, 1+1 layers of 8"},
            "runs": 1,
            "gaps": [
                {
                    "without": "plain",
                    "with": "looking",
                    "short": 1.0,
                    "long": 19.0,
                    "change": {"value": 18.0, "error": 2.0, "freedom": 1000},
                },
            ],
        },
        "maps": {},
        "recall": {
            "buckets": [[1, 5], [6, 10]],
            "updates": 10,
            "pairs": 100,
            "systems": {
                name: {"description": name, "parameters": 1000, "scores": scores}
                for name, scores in (("GRU, no attention", [99.0, 12.0]), ("Transformer", [99.0, 98.0]))
            },
            "gaps": [
                {
                    "without": "GRU, no attention",
                    "with": "Transformer",
                    "short": 0.0,
                    "long": 86.0,
                    "change": {"value": 86.0, "error": 2.0, "freedom": 1000},
                },
            ],
        },
    }
