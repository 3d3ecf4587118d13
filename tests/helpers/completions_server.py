"""A small completions server with a real model inside, which can fail, hang, die and be started again."""

import asyncio
import json
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from peft import PeftModel
from transformers import AutoModelForCausalLM

from a2tgpo.policies.policy import Policy
from a2tgpo.rollouts.protocols import Sampling
from tests.helpers.plain_engine import PlainEngine


class CompletionsServer(ThreadingHTTPServer):
    """Serves the model of `folder` as `policy` on a loopback port, with vLLM's endpoints for new weights."""

    daemon_threads, block_on_close = True, False

    def __init__(self, folder, tokenizer, port=0, device="cuda"):
        super().__init__(("127.0.0.1", port), Handler)
        base = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.folder, self.tokenizer, self.device = folder, tokenizer, device
        self.policies = {"policy": Policy(base, tokenizer)}
        self.version = "default"
        self.requests = []
        """(path, body) of everything asked, in order."""
        self.faults = []
        """What the next completions meet: a status, "drop" the connection, or seconds of silence."""
        self.raw_logprobs = False
        """Are the log-probs told other ones than those of the distribution drawn from?"""
        self.broken = set()
        """Paths that answer with status 500."""
        self.die_after = None
        """Completions until the server dies in the middle of one."""
        self.lock, self.closed = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self, path):
        """Bodies of the requests at `path`."""
        return [body for asked, body in self.requests if asked == path]

    def stop(self):
        """Close the port; who waits for an answer gets none."""
        if self.closed.is_set():
            return
        self.faults = ["drop"] * 1000
        self.shutdown()
        self.server_close()
        self.closed.set()

    def start_again(self):
        """A new server on the same port, which knows nothing but the model it starts with."""
        return CompletionsServer(self.folder, self.tokenizer, self.server_port, self.device)

    # ---- what it answers ---------------------------------------------------------------------------------------------

    def get(self, path):
        if path == "/v1/models":
            return 200, {"data": [{"id": name} for name in self.policies]}
        if path == "/weight_info":
            return 200, {"weight_version": self.version}
        return 200, {"vllm_config": {"device_config": {"device": self.device}}}

    def post(self, path, body):
        if path in self.broken:
            return 500, {"error": "weight transfer is not configured"}
        if path == "/v1/completions":
            return self.complete(body)
        if path == "/v1/load_lora_adapter":
            if body["lora_name"] in self.policies:
                return 400, {"error": "has already been loaded"}
            base = AutoModelForCausalLM.from_pretrained(self.folder)
            model = PeftModel.from_pretrained(base, body["lora_path"]).eval()
            self.policies[body["lora_name"]] = Policy(model, self.tokenizer)
        elif path == "/v1/unload_lora_adapter":
            del self.policies[body["lora_name"]]
        elif path == "/collective_rpc":
            model = AutoModelForCausalLM.from_pretrained(body["kwargs"]["weights_path"]).eval()
            self.policies["policy"] = Policy(model, self.tokenizer)
        elif path == "/update_weight_version":
            self.version = body["new_version"]
        return 200, {"success": True}

    def complete(self, body):
        if body["model"] not in self.policies:
            return 404, {"error": f"The model `{body['model']}` does not exist."}
        if len(body["prompt"]) + body["max_tokens"] > 512:
            return 400, {"error": "longer than max_model_len=512"}
        engine, greedy = PlainEngine(), body["temperature"] == 0
        how = {} if greedy else {"temperature": body["temperature"], "top_p": body["top_p"]}
        engine.sync(replace(self.policies[body["model"]], **how))
        sampling = Sampling(body["max_tokens"], body["stop"], greedy, (body["seed"],))
        done = asyncio.run(engine.extend(list(body["prompt"]), (), sampling))
        choice = {
            "token_ids": done.ids,
            "logprobs": {"token_logprobs": [p - 1.0 for p in done.logprobs] if self.raw_logprobs else done.logprobs},
            "finish_reason": "length" if done.finish == "length" else "stop",
        }
        return 200, {"choices": [choice]}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def log_message(self, *args):
        """Stay silent."""

    def do_GET(self):
        self.respond(*self.server.get(self.path.partition("?")[0]))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, body))
            fault = self.server.faults.pop(0) if self.path == "/v1/completions" and self.server.faults else None
            if self.path == "/v1/completions" and len(self.server.asked(self.path)) == self.server.die_after:
                threading.Thread(target=self.server.stop).start()
                fault = "drop"
        if fault == "drop":
            return
        if isinstance(fault, int):
            self.respond(fault, {"error": "a fault"})
            return
        if isinstance(fault, bytes):
            self.send(200, fault)
            return
        if isinstance(fault, float):
            time.sleep(fault)
            return
        status, answer = self.server.post(self.path, body)
        if self.server.faults[:1] != ["drop"]:
            self.respond(status, answer)

    def respond(self, status, answer):
        self.send(status, json.dumps(answer).encode())

    def send(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
