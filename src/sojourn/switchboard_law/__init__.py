"""The switchboard's law: what becomes of each request while a kernel moves or sleeps, or is about to.

Events go in, past tense; instructions come out, imperative; time is an argument. The law sees requests and replies
of the shell channel, the few control messages that matter and, while the session is not awake, all of them. iopub,
stdin and everything else pass it by.

- A cell with a directive waits until all executes that came before it, from whomever, have finished. Then the session
  is moved, then the cell goes to the kernel. What the same client sends after it on the same (sub)shell, a **lane**,
  queues behind it, in order. Other lanes go on.
- A kernel aborts only what is in its own queue. What is held here is aborted here: after an error with
  `stop_on_error` (all clients' later cells on that subshell), and by an interrupt, which also cancels the move.
- Silent executes, questions (completions and the like) and comm messages never cause a move. While a session moves,
  questions wait at most a second and then get an empty answer; the kernel's own, should it still come, is dropped.
- After a reset of the streams, or a crash of the front, answers are lost: what was pending gets an explicit error,
  once, from here, and no cell is run again by itself. Only what changes nothing is asked again.
- While a session sleeps, what a person does wakes it, and waits, in order, until it runs. What notebooks ask by
  themselves wakes nobody: facts are answered as they were last known, questions with nothing, the rest waits for
  whoever comes. What a kind of message is, and so what becomes of it, is the table `KINDS`.
- A wake that fails is the error of the cells that wanted it; the session sleeps on.
- Before another kernel comes in the place of this one, clients **yield**: all that they ask is held, in order and with
  the patience of a move, and what the kernel has been asked already is waited for. So each request goes to the kernel
  before it has yielded, or to whichever there is afterwards, and none to both.
"""

from sojourn.switchboard_law.events import (
    AnswersLost,
    CellBegan,
    DebtsFound,
    Event,
    GoneOn,
    InputCame,
    InterruptCame,
    KernelHeard,
    MoveEnded,
    ProgramExited,
    ReplyCame,
    RequestCame,
    SessionChanged,
    ShutdownCame,
    TimePassed,
    WakeEnded,
    YieldAsked,
)
from sojourn.switchboard_law.instructions import (
    Abort,
    AnswerEmpty,
    CancelMove,
    ConfirmInterrupt,
    Deliver,
    Discard,
    Fail,
    Forward,
    Instruction,
    Move,
    PassInterrupt,
    PassShutdown,
    Probe,
    Recall,
    SayYielded,
    Tell,
    Wake,
)
from sojourn.switchboard_law.kinds import KINDS, Kind, Request
from sojourn.switchboard_law.law import PATIENCE_SECONDS, SwitchboardLaw

__all__ = [
    "KINDS",
    "PATIENCE_SECONDS",
    "Abort",
    "AnswerEmpty",
    "AnswersLost",
    "CancelMove",
    "CellBegan",
    "ConfirmInterrupt",
    "DebtsFound",
    "Deliver",
    "Discard",
    "Event",
    "Fail",
    "Forward",
    "GoneOn",
    "InputCame",
    "Instruction",
    "InterruptCame",
    "KernelHeard",
    "Kind",
    "Move",
    "MoveEnded",
    "PassInterrupt",
    "PassShutdown",
    "Probe",
    "ProgramExited",
    "Recall",
    "ReplyCame",
    "Request",
    "RequestCame",
    "SayYielded",
    "SessionChanged",
    "ShutdownCame",
    "SwitchboardLaw",
    "Tell",
    "TimePassed",
    "Wake",
    "WakeEnded",
    "YieldAsked",
]
