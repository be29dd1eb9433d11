"""`explorer kiosk`: a demo station that runs by itself for days.

supervisor.py is the process that is started: it keeps the program alive, writes the log and answers the operator.
show.py is the program on the screen, a process of its own; visit.py says what happens when, settings.py and texts.py
are what the station's owner chooses.
"""
