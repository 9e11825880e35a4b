"""The seccomp filter, decided instruction by instruction as the kernel does: for both processors, on any machine."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from services.common.children.system_calls import (
    ARCHITECTURES,
    COMPUTING,
    CONNECTING,
    LEAVING,
    READING,
    SYSTEM,
    UNCOUNTED,
    assemble,
    assemble_refusing,
)

PID = 4242
ALLOW, REFUSE, MISSING = 0x7FFF0000, 0x00050001, 0x00050026
# Numbers of what a hostile model would want, from asm/unistd_64.h and asm-generic/unistd.h.
WANTED = {
    "x86_64": {"open": 2, "openat": 257, "socket": 41, "connect": 42, "execve": 59, "clone": 56, "clone3": 435}
    | {"fork": 57, "kill": 62, "ptrace": 101, "unlink": 87, "io_uring_setup": 425, "prctl": 157, "tkill": 200},
    "aarch64": {"openat": 56, "socket": 198, "connect": 203, "execve": 221, "clone": 220, "clone3": 435}
    | {"kill": 129, "ptrace": 117, "unlinkat": 35, "io_uring_setup": 425, "prctl": 167, "tkill": 130},
}


# What a file that is read and a thread take, and nothing that goes beyond it: the call, its arguments, the answer.
OPENAT, CLONE, PRCTL, FCNTL = ("openat", 257, 56), ("clone", 56, 220), ("prctl", 157, 167), ("fcntl", 72, 25)
THREAD, PROCESS, NEW_USER = 0x3D0F00, 0x1200011, 0x10000000
CONDITIONS = [
    (OPENAT, (0, 0, 0), ALLOW),
    (OPENAT, (0, 0, 0o2000000), ALLOW),  # O_CLOEXEC
    (OPENAT, (0, 0, 0o1), REFUSE),  # O_WRONLY
    (OPENAT, (0, 0, 0o2), REFUSE),  # O_RDWR
    (OPENAT, (0, 0, 0o100), REFUSE),  # O_CREAT
    (OPENAT, (0, 0, 0o1000), REFUSE),  # O_TRUNC
    (CLONE, (THREAD,), ALLOW),
    (CLONE, (PROCESS,), REFUSE),
    (CLONE, (THREAD | NEW_USER,), REFUSE),
    (PRCTL, (15,), ALLOW),  # PR_SET_NAME
    (PRCTL, (4,), REFUSE),  # PR_SET_DUMPABLE
    (FCNTL, (0, 3), ALLOW),  # F_GETFL
    (FCNTL, (0, 4), REFUSE),  # F_SETFL
]


def decide(program: bytes, audit_arch: int, number: int, arguments: Sequence[int] = ()) -> int:
    data = struct.pack("=IIQ6Q", number, audit_arch, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x15:
            at += if_true if accumulator == value else if_false
        elif code == 0x35:
            at += if_true if accumulator >= value else if_false
        else:
            assert code == 0x06
            return int(value)


@pytest.mark.parametrize("machine", ARCHITECTURES)
class TestFilter:
    def decide(
        self,
        machine: str,
        number: int,
        arguments: Sequence[int] = (),
        *,
        audit_arch: int | None = None,
        reading: bool = False,
    ) -> int:
        architecture = ARCHITECTURES[machine]
        program = assemble(architecture, PID, reading=reading)
        return decide(program, audit_arch or architecture.audit_arch, number, arguments)

    def numbers(self, machine: str, calls: dict[str, tuple[int, int]]) -> list[int]:
        found = [numbers[ARCHITECTURES[machine].column] for numbers in calls.values()]
        return [number for number in found if number >= 0]

    def test_what_computing_needs_is_allowed(self, machine: str) -> None:
        assert {self.decide(machine, number) for number in self.numbers(machine, COMPUTING)} == {ALLOW}

    def test_what_computing_does_not_need_is_refused_it(self, machine: str) -> None:
        assert {self.decide(machine, number) for number in self.numbers(machine, READING)} == {REFUSE}

    def test_files_sockets_and_programs_are_refused(self, machine: str) -> None:
        assert {name: self.decide(machine, number) for name, number in WANTED[machine].items()} == dict.fromkeys(
            WANTED[machine], REFUSE
        )

    def test_a_runtime_that_reads_files_gets_them_and_threads_and_nothing_else(self, machine: str) -> None:
        allowed = self.numbers(machine, COMPUTING | READING)
        assert {self.decide(machine, number, reading=True) for number in allowed} == {ALLOW}
        beyond = {name: number for name, number in WANTED[machine].items() if name not in ("openat", "clone", "clone3")}
        assert {name: self.decide(machine, number, reading=True) for name, number in beyond.items()} == dict.fromkeys(
            beyond, REFUSE
        )

    @pytest.mark.parametrize(("call", "arguments", "answer"), CONDITIONS)
    def test_such_a_call_is_decided_by_its_arguments(
        self, machine: str, call: tuple[str, int, int], arguments: Sequence[int], answer: int
    ) -> None:
        number = call[1:][ARCHITECTURES[machine].column]
        assert self.decide(machine, number, arguments, reading=True) == answer
        assert self.decide(machine, number, arguments) == REFUSE

    def test_a_clone_whose_flags_nobody_sees_is_said_not_to_exist(self, machine: str) -> None:
        assert self.decide(machine, 435, reading=True) == MISSING

    @pytest.mark.parametrize("reading", [False, True])
    def test_a_thread_may_signal_its_own_process_alone(self, machine: str, reading: bool) -> None:
        tgkill = {"x86_64": 234, "aarch64": 131}[machine]
        assert self.decide(machine, tgkill, (PID,), reading=reading) == ALLOW
        assert self.decide(machine, tgkill, (PID + 1,), reading=reading) == REFUSE

    def test_the_numbers_of_another_processor_are_refused(self, machine: str) -> None:
        numbers = self.numbers(machine, COMPUTING | READING)
        assert {self.decide(machine, number, audit_arch=0x40000003, reading=True) for number in numbers} == {REFUSE}


# What training needs of a system: the call, its arguments, the answer.
TRAINING = [
    (("openat", 257, 56), (0, 0, 0o1101), ALLOW),
    (("execve", 59, 221), (), ALLOW),
    (CLONE, (PROCESS,), ALLOW),
    (CLONE, (THREAD,), ALLOW),
    (CLONE, (PROCESS | NEW_USER,), REFUSE),
    (("clone3", 435, 435), (), MISSING),
    (("prlimit64", 302, 261), (0,), ALLOW),
    (("prlimit64", 302, 261), (PID,), REFUSE),
    (("kill", 62, 129), (PID, 9), ALLOW),  # whose, no filter can say
]


@pytest.mark.parametrize("machine", ARCHITECTURES)
class TestFilterOfWhatTrains:
    def decide(self, machine: str, number: int, arguments: Sequence[int] = (), *, network: bool = False) -> int:
        architecture = ARCHITECTURES[machine]
        return decide(assemble_refusing(architecture, network=network), architecture.audit_arch, number, arguments)

    @pytest.mark.parametrize("network", [False, True])
    def test_leaving_its_group_and_the_system_are_refused(self, machine: str, network: bool) -> None:
        refused = {name: calls[ARCHITECTURES[machine].column] for name, calls in (LEAVING | UNCOUNTED | SYSTEM).items()}
        decided = {
            name: self.decide(machine, number, network=network) for name, number in refused.items() if number > 0
        }
        assert decided == dict.fromkeys(decided, REFUSE)
        assert {"setsid", "setpgid", "memfd_create", "ptrace", "unshare", "mount"} <= set(decided)

    def test_connections_are_let_in_by_policy_alone(self, machine: str) -> None:
        socket = CONNECTING["socket"][ARCHITECTURES[machine].column]
        assert self.decide(machine, socket) == REFUSE
        assert self.decide(machine, socket, network=True) == ALLOW

    def test_what_computes_and_reads_can_do_so(self, machine: str) -> None:
        column = ARCHITECTURES[machine].column
        numbers = [calls[column] for calls in (COMPUTING | READING).values() if calls[column] >= 0]
        assert {self.decide(machine, number) for number in numbers} == {ALLOW}

    @pytest.mark.parametrize(("call", "arguments", "answer"), TRAINING)
    def test_such_a_call_is_decided_by_its_arguments(
        self, machine: str, call: tuple[str, int, int], arguments: Sequence[int], answer: int
    ) -> None:
        assert self.decide(machine, call[1:][ARCHITECTURES[machine].column], arguments) == answer

    def test_other_ways_into_the_kernel_are_refused(self, machine: str) -> None:
        architecture = ARCHITECTURES[machine]
        program = assemble_refusing(architecture, network=True)
        assert decide(program, 0x40000003, 20) == REFUSE
        assert decide(program, architecture.audit_arch, 0x40000000 | 41) == REFUSE
