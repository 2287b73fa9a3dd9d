"""The agent: the program on a node that holds sessions and carries out what the controller asks.

    main         arguments, folder, start and end
    agent        puts the parts together: what happens at start, in which order, and at the end
    line         the WebSocket to the controller: hello, events until acknowledged, instructions in
    runner       instruction -> work, one at a time per session; what happens in a sandbox -> event
    departures   the source's halves of moves, and saves; arrivals: the target's, and wakes; links: between the two
    attendance   one session on this node: its sandbox, its rider's control line, its door
    door         where its clients wait, and are introduced to the rider
    data_port    where clients and peers knock; hands their sockets to riders and movers
    calls        those whom the controller's relay has for this node, brought to the data port
    rider_line   the control connection to one rider
    vigil        notices that a sandbox has died, and says why
    journal      what must survive the agent: lives, halves of moves, saves and wakes, events not yet acknowledged
    capabilities what this node can do; machine: who it is; load: what it has and how busy it is
    meters       what each session uses
    eviction     notices that the node is about to be taken away; metadata: what clouds say of that
    recovery     what an agent before this one left: taken back, ended, or cleaned up
    images       podman's, and those that come and go between nodes
    folder       the agent's own folder, locked

An agent may be killed at any moment. What it made is in the journal before it is made, so the next agent on the
same folder takes the running sandboxes back, ends what was half done, and tells the controller the truth.
"""
