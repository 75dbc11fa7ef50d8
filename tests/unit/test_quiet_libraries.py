"""What libraries say while they load is kept off the command line, and nothing else, and nowhere else."""

import pickle
import subprocess
import sys
import warnings

import pytest

from scail2.checkpoints.loading_bars import no_loading_bars
from scail2.cli.libraries import quiet_libraries, quiet_process
from scail2.execution import processes


def test_only_the_listed_remarks_are_kept_back_and_only_meanwhile():
    """In a process of its own: a library that is loaded takes its loggers in hand."""
    code = """if True:
        import logging
        from scail2.cli.libraries import REMARKS, quiet_libraries
        heard = []
        class Ear(logging.Handler):
            def emit(self, record): heard.append(record.getMessage())
        logging.root.addHandler(Ear())
        with quiet_libraries():
            for each in REMARKS:
                logging.getLogger(each.logger).warning("%s and so on", each.start)
                logging.getLogger(each.logger).warning("something that matters to %s", each.logger)
            assert heard == [f"something that matters to {each.logger}" for each in REMARKS], heard
        logging.getLogger(REMARKS[0].logger).warning("%s is shown again", REMARKS[0].start)
        assert heard[-1] == f"{REMARKS[0].start} is shown again"
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_deprecations_inside_diffusers_are_kept_back_those_of_users_are_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet_libraries():
            warnings.warn_explicit("old", FutureWarning, "x.py", 1, module="diffusers.models.modeling_utils")
            with pytest.raises(FutureWarning, match="ours"):
                warnings.warn_explicit("ours", FutureWarning, "x.py", 1, module="scail2.pipeline.call")
            with pytest.raises(UserWarning, match="real"):
                warnings.warn_explicit("real", UserWarning, "x.py", 1, module="diffusers.models.modeling_utils")


def test_importing_the_package_changes_no_logger_and_no_filter():
    code = (
        "import logging, warnings; before = list(warnings.filters)\n"
        "import scail2, scail2.cli.app\n"
        "assert warnings.filters == before\n"
        "assert not any(getattr(each, 'filters', ()) for each in logging.root.manager.loggerDict.values())\n"
        "assert not logging.root.handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bars_over_weights_are_off_meanwhile_and_those_of_downloads_stay():
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as of_transformers

    def state():
        return of_diffusers.is_progress_bar_enabled(), of_transformers.is_progress_bar_enabled()

    before, downloads = state(), are_progress_bars_disabled()
    with no_loading_bars():
        assert state() == (False, False)
        assert are_progress_bars_disabled() == downloads
    assert (state(), are_progress_bars_disabled()) == (before, downloads)


class _Told:
    """Says so when it is unpickled, and when it is to be prepared."""

    happened: list[str] = []

    def __reduce__(self):
        return _unpickled, ()

    def prepare(self):
        self.happened.append("prepared")


def _unpickled():
    _Told.happened.append("unpickled")
    return _Told()


class _Connection:
    """Of a command that has nothing to do."""

    def recv(self):
        return None


def test_a_worker_is_quiet_before_it_imports_what_its_job_is_made_of(monkeypatch):
    monkeypatch.setattr(processes, "end_with_parent", lambda: None)
    monkeypatch.setattr(processes.signal, "signal", lambda *_: None)
    _Told.happened.clear()
    processes.work(_Connection(), lambda: _Told.happened.append("quiet"), pickle.dumps(_Told()))
    assert _Told.happened == ["quiet", "unpickled", "prepared"]
    assert pickle.loads(pickle.dumps(quiet_process)) is quiet_process
