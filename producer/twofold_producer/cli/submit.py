"""`twofold submit`: sources, or the lines of a manifest."""

import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import typer

from twofold_producer.cli import door
from twofold_producer.cli.app import EXIT_NOT_ACCEPTED, cell, err, given, pairs
from twofold_producer.cli.jobs import Output, OutputOption, show, wait_for
from twofold_producer.submit.submission import Answer, Submission
from twofold_schema.formats import ResultFormat
from twofold_schema.states import JobClass

#: What goes with a manifest; all else is said by its lines.
_WITH_MANIFEST = {"manifest", "submission_key", "tenant", "output"}


def submit(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE...", help="s3://…, file:///…, or local files."),
    ] = None,
    *,
    manifest: Annotated[
        str | None,
        typer.Option(help="Instead of sources: a JSONL file or URI, one job's request a line."),
    ] = None,
    submission_key: Annotated[
        str | None,
        typer.Option(help="Your name for all of them together: run it again, and it goes on."),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(help="Whose jobs they are; default unless stated. Over HTTP the key says it."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the results.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait.")] = None,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 20,
    guidance_scale: Annotated[float, typer.Option(help="0 ignores the prompt.")] = 0.0,
    prompt: Annotated[str, typer.Option(help="What the picture shows.")] = "",
    negative_prompt: Annotated[str, typer.Option(help="What it must not show.")] = "",
    seed: Annotated[int | None, typer.Option(help="Drawn for each job when absent.")] = None,
    reproducible: Annotated[bool, typer.Option(help="The same to the bit, always.")] = False,
    job_class: Annotated[
        JobClass, typer.Option("--class", help="Who is served first.")
    ] = JobClass.STANDARD,
    key: Annotated[str | None, typer.Option(help="Your name for one job: run it once.")] = None,
    output_prefix: Annotated[str | None, typer.Option(help="Where results go.")] = None,
    output_format: Annotated[
        ResultFormat, typer.Option("--format", help="The kind of file; latents are not decoded.")
    ] = ResultFormat.PNG,
    output_quality: Annotated[
        int, typer.Option("--quality", help="1 to 100, for webp and jpeg.")
    ] = 90,
    publish_as: Annotated[
        str | None,
        typer.Option(help="Copy each result to this name, e.g. 'big/{stem}'; {key}, {job} too."),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A pair of your own, to find the jobs by."),
    ] = None,
    webhook: Annotated[
        UUID | None, typer.Option(help="Id of an endpoint that is told of each job's end.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Submit pictures; print the jobs, or with --wait the places of their results.

    Of a manifest the submission's id is printed; with -o jsonl what came of each line.
    """
    if manifest is not None:
        if given(context) - _WITH_MANIFEST:
            raise typer.BadParameter("with --manifest its lines say what is asked; give no more")
        _submit_manifest(manifest, submission_key, tenant, output)
        return
    if not sources:
        raise typer.BadParameter("give a source, or --manifest")
    if key is not None and len(sources) > 1:
        raise typer.BadParameter("--key names one job; give one source")
    asked: dict[str, Any] = {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "reproducible": reproducible,
        "job_class": job_class,
        "key": key,
        "output_prefix": output_prefix,
        "output_format": output_format,
        "output_quality": output_quality,
        "publish_as": publish_as,
        "metadata": pairs(metadata or []),
        "webhook": webhook,
    }
    with door.opened() as opened:
        submission = opened.submit(sources, asked, tenant=tenant, key=submission_key)
        _say_faults(submission.faults, sources)
        if submission.created < len(sources) or output is Output.TABLE:
            _sum_up(submission)
        if wait:
            wait_for(opened, submission.job_ids, timeout, output)
        elif output is Output.IDS:
            # Nothing has to be read for it: an API key for submitting alone will do.
            sys.stdout.writelines(f"{job_id}\n" for job_id in submission.job_ids)
        else:
            show(opened.get(submission.job_ids), output)
    if submission.invalid:
        raise typer.Exit(EXIT_NOT_ACCEPTED)


def _submit_manifest(
    place: str, submission_key: str | None, tenant: str | None, output: Output
) -> None:
    with door.opened() as opened:
        submission = opened.submit_manifest(
            place, tenant=tenant, key=submission_key, on_answers=partial(_tell, output)
        )
    if output is Output.JSON:
        counts = {name: getattr(submission, name) for name in ("created", "existing", "invalid")}
        sys.stdout.write(json.dumps({"submission": str(submission.id), **counts}) + "\n")
    elif output is Output.TABLE:
        sys.stdout.write(f"{submission.id}\n")
    if output is not Output.JSONL:
        _say_faults(submission.faults)
    _sum_up(submission)
    if submission.invalid:
        raise typer.Exit(EXIT_NOT_ACCEPTED)


def _tell(output: Output, answers: Sequence[Answer]) -> None:
    """Print what came of lines, where that is asked for line by line."""
    for answer in answers:
        if output is Output.JSONL:
            sys.stdout.write(json.dumps(answer._asdict(), default=str) + "\n")
        elif output is Output.IDS and answer.job_id is not None:
            sys.stdout.write(f"{answer.job_id}\n")


def _say_faults(faults: Sequence[Answer], sources: Sequence[str] = ()) -> None:
    for fault in faults:
        where = sources[fault.position] if sources else f"line {fault.line}"
        err.print(cell(f"{where}: {fault.code}: {fault.message}"), soft_wrap=True)


def _sum_up(submission: Submission) -> None:
    err.print(
        f"{submission.created} created, {submission.existing} existing, "
        f"{submission.invalid} invalid.",
        style="dim",
    )
