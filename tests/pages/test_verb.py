"""`vqmm report` on the command line, and the name `vqmm.report`."""

import pytest

from tests.cli.runner import Vqmm


@pytest.fixture
def vqmm(capsys) -> Vqmm:
    return Vqmm(capsys)


def test_it_prints_the_path_of_the_page(vqmm, run):
    assert vqmm("report", run).out == f"{run / 'report.html'}\n"
    assert vqmm("report", run, "--json").json == {"report": str(run / "report.html")}


def test_a_folder_that_is_no_run_is_one_line(vqmm, tmp_path):
    assert "has no recipe.yaml" in vqmm.refuses("report", tmp_path)
    assert "no recipe.yaml" in vqmm.refuses("report", tmp_path / "absent")


def test_the_name_is_the_function_whatever_was_imported_before(run):
    import vqmm.pages.charts

    assert vqmm.report(run) == {"report": str(run / "report.html")}
