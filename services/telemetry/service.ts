/** telemetry 1.1.0: load average; hands over the reserved numbers and the newest time as well (schema 2). */
import type { Service } from '../sdk/service.ts'
import { Telemetry } from './telemetry.ts'

export const create = (): Service<null> => new Telemetry({ withLoad1: true })
