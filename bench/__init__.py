"""What Sojourn costs, measured: `python -m bench move|roundtrip|start --json`, one JSON object per result."""
