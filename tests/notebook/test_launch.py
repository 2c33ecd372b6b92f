"""From the flags of ``ranks`` to what starts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepseek_lab.base.errors import DeepseekError, UsageError
from deepseek_lab.distributed.launchers import Kubernetes, Local, Slurm, Ssh
from deepseek_lab.notebook import launch
from deepseek_lab.notebook.parse import Command, parse, split_line


def typed(text: str) -> Command:
    return parse(split_line(f"ranks {text}"), "line")


def test_flags_become_a_launcher(tmp_path: Path) -> None:
    assert isinstance(launch.launcher_of(typed("start -n 2")), Local)
    ssh = launch.launcher_of(
        typed("start --hosts 127.0.0.1*2,me@127.0.0.2:22 --ssh-options '-i key' --python /p")
    )
    assert isinstance(ssh, Ssh)
    assert (ssh.host, ssh.num_places) == ("127.0.0.1", 3)
    assert ssh._ssh("me@127.0.0.2:22")[:3] == ["-T", "-i", "key"]
    slurm = launch.launcher_of(
        typed(f"start -n 4 --launcher slurm --wait 9 --folder {tmp_path} --listen 127.0.0.3")
    )
    assert isinstance(slurm, Slurm)
    assert (slurm.start_limit_s, slurm.parent, slurm.host) == (9, tmp_path, "127.0.0.3")


def test_as_many_ranks_as_places() -> None:
    assert launch.default_num(typed("start --hosts 127.0.0.1*2,127.0.0.2")) == 3
    assert launch.default_num(typed("start")) is None
    with pytest.raises(UsageError, match="how many ranks"):
        launch.default_num(typed("start --launcher pbs"))


def test_scripts_are_printed(tmp_path: Path) -> None:
    assert "#SBATCH --ntasks=16" in launch.script(typed("script --launcher slurm -n 16"))
    assert "-l select=3:" in launch.script(typed("script --launcher pbs -n 3"))
    (tmp_path / "site.toml").write_text('image = "here/it:1"\n')
    told = launch.script(typed(f"script --launcher kubernetes -n 3 --profile {tmp_path}/site.toml"))
    assert '"completions": 3' in told
    for text in ("script -n 2", "script --launcher slurm", "script --hosts a -n 2"):
        with pytest.raises(UsageError, match="a script is for a batch system"):
            launch.script(typed(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--profile x", r"--profile is not for local ranks\n.*--launcher slurm or pbs or kubernetes"),
        ("--launcher pbs --hosts a", "--hosts is not for pbs ranks"),
        ("--launcher kubernetes --folder a", "--folder is not for kubernetes ranks"),
        ("--launcher ssh", "no hosts were given"),
        ("--hosts -x", "'-x' is no host"),
    ],
)
def test_what_cannot_be_meant(text: str, said: str) -> None:
    with pytest.raises(DeepseekError, match=said):
        launch.launcher_of(typed(f"start {text}"))


def test_a_profile_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("image: it\n")
    with pytest.raises(DeepseekError, match="the profile is no TOML"):
        Kubernetes(profile=tmp_path / "site")
