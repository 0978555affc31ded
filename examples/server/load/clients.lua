-- What wrk asks for: the greeting, by many clients, each with its session.
-- The argument is a file with the sessions, one a line.
local requests, next_one = {}, 0

function init(args)
  local number = 0
  for session in io.lines(args[1]) do
    number = number + 1
    requests[number] = wrk.format("GET", "/hello", {
      ["Cookie"] = "session=" .. session,
      ["X-Forwarded-For"] = string.format("10.0.%d.%d", number / 250, number % 250),
    })
  end
end

function request()
  next_one = next_one % #requests + 1
  return requests[next_one]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6,
    latency:percentile(99) / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
