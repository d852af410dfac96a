/** What the benches ask for: a telemetry sample of about 150 bytes, made anew for each answer, by the same code on both sides. */
import type { TelemetrySampleInit } from '../../proto/gen/telemetry.ts'

let sequence = 1_000_000

export function nextSample(callSequence: number): TelemetrySampleInit {
  sequence++
  return {
    sequence,
    callSequence,
    serviceVersion: '1.0.0',
    atMs: Date.now(),
    interfaces: [
      {
        name: 'eth0',
        operStatus: 'up',
        mac: '02:00:00:00:00:01',
        mtu: 1_500,
        inOctets: 4_000_000_000 + sequence,
        outOctets: 3_000_000_000 + sequence,
        inPackets: 40_000_000 + sequence,
        outPackets: 30_000_000 + sequence,
      },
    ],
    bgpSessions: [{ name: 'peer_edge_1', neighborAddress: '10.77.0.12', state: 'Established', routesImported: 1_000 }],
    cpuBusyMs: 100_000_000 + sequence,
    cpuIdleMs: 900_000_000 + sequence,
    memoryTotalBytes: 1_073_741_824,
    memoryAvailableBytes: 536_870_912,
  }
}
