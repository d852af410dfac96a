/** The service that the call benches install: the methods of telemetry over samples that cost nothing to take. */
import { TelemetryMethods } from '../../proto/gen/telemetry.ts'
import { serverStream, unary, type Service } from '../../services/sdk/service.ts'
import { nextSample } from './sample.ts'

async function* samples(count: number) {
  for (let sent = 0; sent < count; sent++) yield nextSample(0)
}

export const create = (): Service => ({
  methods: [
    unary(TelemetryMethods.Get, async ({ callSequence }) => nextSample(callSequence)),
    serverStream(TelemetryMethods.Stream, ({ samples: count }) => samples(count)),
  ],
  check: (raw) => raw,
  start: async () => {},
  stop: async () => {},
  health: () => ({ status: 'healthy', evidence: {} }),
})
