import type { Attempt } from '../attempt.ts'
import { CODE } from './code.ts'
import { HOST } from './host.ts'
import { MACHINE } from './machine.ts'
import { REALM } from './realm.ts'
import { THREADS } from './threads.ts'

/** Everything that is tried. Names are unique. */
export const ATTEMPTS: readonly Attempt[] = [...MACHINE, ...CODE, ...REALM, ...THREADS, ...HOST]
