"""What the benchmarks share: running a verb for its JSON, and the interval of a mean. A bench in a folder of its own says

    sys.path.append(str(Path(__file__).resolve().parents[1]))
"""

import json
import math
import statistics
import subprocess
import sys

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # 97.5 % quantile for so many values


def run(binary, *arguments):
    """The JSON result of a verb; what it printed and the end of all when it fails."""
    command = [str(c) for c in (binary, *arguments, "--json", "--progress", "none")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


def interval(values):
    """Mean and half width of its 95 % confidence interval (Student's t); NaN of one value."""
    if len(values) < 2:
        return statistics.mean(values), math.nan
    return statistics.mean(values), STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
