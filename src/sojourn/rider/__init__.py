"""The rider: PID 1 of a sandbox and the far end of its tunnels.

Standard library only, and little of that, for it runs in every sandbox; `build` packs it into the one file that gets
there. A rider may be frozen at any instruction and go on elsewhere: it dials nobody, and learns where it is, and which
life this is, from who comes in.
"""
