/** offbox.v1.Device: facts, logs and power of this device. */
import { X509Certificate } from 'node:crypto'
import { release } from 'node:os'
import type { Clock } from '../../core/clock.ts'
import { OffboxError } from '../../core/errors.ts'
import { DeviceMethods, type LogRecordInit, type LogsRequest } from '../../proto/gen/device.ts'
import type { Identity } from '../boot/identity.ts'
import { pingBytesMax, reasonCharsMax, rebootDelayMsMax, watchersMax } from '../limits.ts'
import { type Metrics, OPEN_METRICS_TYPE } from '../metrics/open-metrics.ts'
import { Backlog, LEVELS, type Level, type LogRing, type StoredRecord } from '../log.ts'
import type { FloorStore } from '../trust/floors.ts'
import { readListeners } from './listeners.ts'
import type { Serve } from './serve.ts'

export interface DeviceFacts {
  readonly fleet: string
  readonly serial: string
  readonly mac: string
  readonly address: string
  readonly boot: 'pxe' | 'local'
  readonly bootId: string
  readonly agentVersion: string
  readonly agentStarts: number
  /** Empty for a local agent. */
  readonly imageSha256: string
}

export interface DeviceParts {
  readonly facts: DeviceFacts
  /** In service at this moment. */
  readonly identity: () => Identity
  readonly floors: FloorStore
  readonly ring: LogRing
  readonly audits: LogRing
  readonly metrics: Metrics
  readonly clock: Clock
  /** Time since the machine (a local agent: the agent) started, milliseconds. */
  readonly uptimeMs: () => number
  /** Null where the agent does not own the machine. */
  readonly reboot: (() => void) | null
  readonly log: { warn(fields: object, message: string): void }
}

export function serveDevice(serve: Serve, parts: DeviceParts): void {
  const { facts, floors, clock } = parts

  serve.unary(DeviceMethods.Info, async () => {
    const identity = parts.identity()
    const certificate = new X509Certificate(identity.chainPem)
    return {
      ...facts,
      deviceId: identity.deviceId,
      nodeVersion: process.version,
      kernel: release(),
      timeMs: clock.nowMs(),
      uptimeMs: Math.round(parts.uptimeMs()),
      agentUptimeMs: Math.round(process.uptime() * 1000),
      listeners: await readListeners(),
      agentRssBytes: process.memoryUsage.rss(),
      certificateSerial: certificate.serialNumber.toLowerCase(),
      certificateNotAfterMs: certificate.validToDate.getTime(),
      floors: { ...floors.current.floors },
      attestation: 'none',
    }
  })

  serve.unary(DeviceMethods.Ping, ({ payload }) => {
    if (payload.length > pingBytesMax) throw new OffboxError('ARGUMENT_INVALID', `payload has more than ${pingBytesMax} bytes`)
    return { payload, timeMs: clock.nowMs(), bootId: facts.bootId }
  })

  serve.unary(DeviceMethods.Metrics, () => ({ text: parts.metrics.render(), contentType: OPEN_METRICS_TYPE }))

  serve.unary(DeviceMethods.Reboot, ({ delayMs, reason }, { principal }) => {
    const { reboot } = parts
    if (reason === '' || reason.length > reasonCharsMax) throw new OffboxError('ARGUMENT_INVALID', `reason must have 1 to ${reasonCharsMax} characters`)
    if (delayMs > rebootDelayMsMax) throw new OffboxError('ARGUMENT_INVALID', `delay_ms must be at most ${rebootDelayMsMax}`)
    if (!reboot) throw new OffboxError('STATE_REFUSED', 'this is a local agent: it does not own the machine')
    parts.log.warn({ principal, reason, delayMs }, 'reboot ordered')
    // The answer has to leave before the machine goes.
    clock.after(Math.max(delayMs, 100), reboot)
    return { atMs: clock.nowMs() + delayMs }
  })

  let watchers = 0
  serve.serverStream(DeviceMethods.Logs, async function* (request, { signal }) {
    const wanted = filterOf(request)
    const ring = request.auditOnly ? parts.audits : parts.ring
    if (watchers >= watchersMax) throw new OffboxError('LIMIT_REACHED', `${watchersMax} readers are open`)
    watchers += 1
    const backlog = new Backlog<LogRecordInit>()
    const stored = ring.stored().flatMap((record) => wanted(record) ?? [])
    const stop = ring.watch((record) => {
      const message = request.follow ? wanted(record) : null
      if (message) backlog.push(message)
    })
    signal.addEventListener('abort', () => backlog.end(), { once: true })
    if (signal.aborted || !request.follow) backlog.end()
    try {
      yield* request.tail > 0 ? stored.slice(-request.tail) : stored
      for (let next = await backlog.next(); next; next = await backlog.next()) yield { ...next.item, dropped: next.dropped }
    } finally {
      watchers -= 1
      stop()
    }
  })
}

/** @throws ARGUMENT_INVALID an unknown level */
function filterOf(request: LogsRequest): (record: StoredRecord) => LogRecordInit | null {
  const { service, contains, auditOnly } = request
  const least = LEVELS.indexOf((request.minLevel || 'info') as Level)
  if (least < 0) throw new OffboxError('ARGUMENT_INVALID', `min_level must be one of ${LEVELS.join(', ')}`)
  return ({ sequence, line }) => {
    if (contains !== '' && !line.includes(contains)) return null
    const { level, time, msg, service: of, ...fields } = JSON.parse(line) as Record<string, unknown>
    // Records about a service are the agent's own unless the service wrote them itself.
    const writer = fields['origin'] === 'service' && typeof of === 'string' ? of : 'agent'
    if (service !== '' && service !== writer && service !== of) return null
    if (LEVELS.indexOf(level as Level) < least || (auditOnly && fields['audit'] !== true)) return null
    if (writer === 'agent' && of !== undefined) fields['service'] = of
    return { sequence, atMs: time as number, level: String(level), service: writer, message: String(msg ?? ''), fieldsJson: JSON.stringify(fields) }
  }
}
