/** telemetry 1.0.0: the first release. Its manifest keeps it to hand-over schema 1, the sequence alone. */
import type { Service } from '../../../sdk/service.ts'
import { Telemetry } from '../../telemetry.ts'

export const create = (): Service<null> => new Telemetry({ withLoad1: false })
