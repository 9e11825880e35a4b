"""The seccomp filter, decided instruction by instruction as the kernel does: for both processors, on any machine."""

from __future__ import annotations

import struct

import pytest

from services.registry.validation.sandbox import ALLOWED, ARCHITECTURES, assemble

PID = 4242
ALLOW, REFUSE = 0x7FFF0000, 0x00050001
# Numbers of what a hostile model would want, from asm/unistd_64.h and asm-generic/unistd.h.
WANTED = {
    "x86_64": {"open": 2, "openat": 257, "socket": 41, "connect": 42, "execve": 59, "clone": 56, "clone3": 435}
    | {"fork": 57, "kill": 62, "ptrace": 101, "unlink": 87, "io_uring_setup": 425, "prctl": 157, "tkill": 200},
    "aarch64": {"openat": 56, "socket": 198, "connect": 203, "execve": 221, "clone": 220, "clone3": 435}
    | {"kill": 129, "ptrace": 117, "unlinkat": 35, "io_uring_setup": 425, "prctl": 167, "tkill": 130},
}


def decide(program: bytes, audit_arch: int, number: int, first_argument: int = 0) -> int:
    data = struct.pack("=IIQQ", number, audit_arch, 0, first_argument)
    instructions = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x15:
            at += if_true if accumulator == value else if_false
        else:
            assert code == 0x06
            return int(value)


@pytest.mark.parametrize("machine", ARCHITECTURES)
class TestFilter:
    def decide(self, machine: str, number: int, first_argument: int = 0, *, audit_arch: int | None = None) -> int:
        architecture = ARCHITECTURES[machine]
        program = b"".join(assemble(architecture, PID))
        return decide(program, audit_arch or architecture.audit_arch, number, first_argument)

    def test_what_computing_needs_is_allowed(self, machine: str) -> None:
        column = ARCHITECTURES[machine].column
        assert {self.decide(machine, numbers[column]) for numbers in ALLOWED.values()} == {ALLOW}

    def test_files_sockets_and_programs_are_refused(self, machine: str) -> None:
        assert {name: self.decide(machine, number) for name, number in WANTED[machine].items()} == dict.fromkeys(
            WANTED[machine], REFUSE
        )

    def test_a_thread_may_signal_its_own_process_alone(self, machine: str) -> None:
        tgkill = ARCHITECTURES[machine].tgkill
        assert self.decide(machine, tgkill, PID) == ALLOW
        assert self.decide(machine, tgkill, PID + 1) == REFUSE

    def test_the_numbers_of_another_processor_are_refused(self, machine: str) -> None:
        numbers = [numbers[ARCHITECTURES[machine].column] for numbers in ALLOWED.values()]
        assert {self.decide(machine, number, audit_arch=0x40000003) for number in numbers} == {REFUSE}
