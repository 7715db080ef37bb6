"""An agent that summarises papers, and asks for each of them which model is worth it.

python examples/choosing/agent.py                                    # decides in this process, from the stack file
gwcore run examples/choosing/stack.yaml --port 8000 &
python examples/choosing/agent.py --gateway http://127.0.0.1:8000    # asks the gateway, and sends the work there
"""

import argparse
from pathlib import Path

import httpx2

from gwcore_rules import LLMChoiceMixin, NoChoice

PAPERS = {
    "a note of two pages": "We measure the latency of a proxy. " * 150,
    "a paper of twenty": "We measure the latency of a proxy. " * 1500,
    "a book": "We measure the latency of a proxy. " * 30_000,
}
TASK = "research_paper_summary"


class Summariser(LLMChoiceMixin):
    llm_rules = Path(__file__).parent / "stack.yaml"

    def __init__(self, gateway=None, key=None):
        self.llm_gateway, self.llm_key = gateway, key

    def summarise(self, paper):
        prompt = f"Summarise this paper.\n\n{paper}"
        choice = self.llm_choice(prompt=prompt, task_type=TASK, max_cost_usd=0.25)
        return choice, self.ask(prompt, choice) if self.llm_gateway else None

    def ask(self, prompt, choice):
        """Name the model that was chosen: the request is for nothing else."""
        settings = {name: choice[name] for name in ("temperature", "max_tokens") if choice[name] is not None}
        body = {"model": choice["model"], "messages": [{"role": "user", "content": prompt}], **settings}
        headers = {"authorization": f"Bearer {self.llm_key}"} if self.llm_key else {}
        answer = httpx2.post(f"{self.llm_gateway}/v1/chat/completions", json=body, headers=headers, timeout=60)
        answer.raise_for_status()
        return answer.json()["choices"][0]["message"]["content"]


def main():
    options = argparse.ArgumentParser(description="Summarise papers with the model that is worth it.")
    options.add_argument("--gateway", help="base URL of a gateway that runs; else nothing is sent anywhere")
    options.add_argument("--key", help="key for it")
    given = options.parse_args()
    agent = Summariser(given.gateway, given.key)
    for name, paper in PAPERS.items():
        try:
            choice, summary = agent.summarise(paper)
        except NoChoice as none:
            print(f"{name}: not worth it: {none}")
            continue
        print(f"{name}: {choice['model']} for about ${choice['estimated_cost_usd']:.4f} ({choice['reason']})")
        if summary is not None:
            print(f"  {summary[:80]}")


if __name__ == "__main__":
    main()
