"""Measure a generated folder of 500 files in one wide map; two of them are not text and cost only themselves."""

import asyncio
import tempfile
from pathlib import Path

import tools
from planloom import execute_plan

HERE = Path(__file__).parent


def generate(folder: Path) -> None:
    words = ["warp", "weft", "heddle", "shuttle", "selvedge", "bobbin", "treadle", "reed"]
    for number in range(498):
        lines = [" ".join(words[: 1 + (number + row) % len(words)]) for row in range(1 + number % 7)]
        (folder / f"note_{number:03}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    (folder / "latin1.txt").write_bytes("Gr\xfc\xdfe".encode("latin-1"))


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        result = await execute_plan(
            HERE / "plan.yaml", tools=[tools.files, tools.measure, tools.summary], context={"folder": folder}
        )

    print(result["status"], result["result"], f"in {result['latency_ms']:.0f} ms")
    assert result["status"] == "partial"
    assert result["result"]["files"] == 498
    assert result["result"]["unreadable"] == 2
    measured = next(step for step in result["steps"] if step["id"] == "measure")
    assert measured["width"] == 500
    assert {error["index"] for error in measured["errors"]} == {0, 499}


if __name__ == "__main__":
    asyncio.run(main())
