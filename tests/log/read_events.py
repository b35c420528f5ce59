# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Reads an event file as TensorBoard does and prints a JSON object for each value: read_events.py <file>"""

import json
import sys

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader, LegacyEventFileLoader

plugins = {value.tag: value.metadata.plugin_data.plugin_name
           for event in EventFileLoader(sys.argv[1]).Load() for value in event.summary.value}
for event in LegacyEventFileLoader(sys.argv[1]).Load():
    if event.HasField("file_version"):
        print(json.dumps({"version": event.file_version, "time": event.wall_time}))
    for value in event.summary.value:
        line = {"step": event.step, "tag": value.tag, "time": event.wall_time, "plugin": plugins[value.tag]}
        if value.HasField("histo"):
            histogram = value.histo
            line |= {name: getattr(histogram, name) for name in ("min", "max", "num", "sum", "sum_squares")}
            line |= {"limits": list(histogram.bucket_limit), "counts": list(histogram.bucket)}
        else:
            line["scalar"] = value.simple_value if abs(value.simple_value) < float("inf") else repr(value.simple_value)
        print(json.dumps(line))
