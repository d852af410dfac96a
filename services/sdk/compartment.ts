/**
 * Confines service code: hardened JavaScript (SES) in a realm that holds nothing else of worth. Used by the worker host (run.ts) and
 * the process host alike. What a service finds is endowments.ts; what this cannot do is in docs/threat-model.md.
 */
import 'ses'
import { OffboxError } from '../../core/errors.ts'
import { findForbidden } from '../../core/payload-rules.ts'
import { makeEndowments } from './endowments.ts'
import { textOfThrown } from './guard.ts'
import { hideNodeGlobals } from './sandbox.ts'
import { Timer } from './timers.ts'

export interface ConfineOptions {
  /** Of the service; they name its code in stack traces. */
  readonly name: string
  readonly version: string
  /** Classes of the host whose instances or errors the service gets to see: frozen, so that it cannot change them. */
  readonly lent?: readonly unknown[]
}

/** Runs a payload and answers its exports. @throws BUNDLE_MALFORMED when it cannot be compiled, naming the line; else what the code throws */
export type Evaluate = (code: string) => unknown

/**
 * Freezes the intrinsics of this realm and takes Node's globals away. Once per realm, before any code of a service; what the host needs
 * of Node it must have taken before.
 */
export function confine({ name, version, lent = [] }: ConfineOptions): Evaluate {
  // Node would inspect what a service threw, and lend its own functions to it in doing so.
  process.on('uncaughtException', (error) => {
    throw new Error(textOfThrown(error))
  })
  const endowments = makeEndowments()
  repairIntrinsics({
    // Stacks of services are of use in their logs. They show the service's own lines and names of the host's functions, no path.
    errorTaming: 'unsafe',
    stackFiltering: 'verbose',
    // A getter in the place of Array.prototype.push or of an iterator costs codecs two thirds of their speed; `enableOverrides` below
    // has those that matter to libraries.
    overrideTaming: 'min',
    localeTaming: 'unsafe',
    domainTaming: 'unsafe',
    consoleTaming: 'unsafe',
    errorTrapping: 'none',
    unhandledRejectionTrapping: 'none',
    reporting: 'none',
  })
  enableOverrides()
  hardenIntrinsics()
  // Node's DOMException is kept from services; frozen, it would be of no use to one that met it all the same.
  for (const one of [...lent, Timer, DOMException]) harden(one)
  // The host makes its signals of the same class, since services get to see them.
  Object.assign(globalThis, { AbortController: endowments['AbortController'], AbortSignal: endowments['AbortSignal'] })
  const globals: Record<string, unknown> = { ...endowments }
  for (const name of POWERLESS_NAMES) globals[name] = Reflect.get(globalThis, name)
  for (const value of Object.values(globals)) harden(value)
  const compartment = new Compartment({ __options__: true, name, globals })
  for (const unwanted of UNWANTED) Reflect.deleteProperty(compartment.globalThis, unwanted)
  fixGlobals(compartment.globalThis)
  hideNodeGlobals()
  return (code) => evaluate(compartment, code, `${name}@${version}`)
}

/**
 * Lets objects have properties of their own by assignment where a frozen prototype has one of that name, which ECMAScript refuses else:
 * `error.message = …`, `Child.prototype.constructor = Child`.
 */
function enableOverrides(): void {
  const errors = [Error, AggregateError, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError]
  for (const { prototype } of errors) for (const name of ['name', 'message', 'constructor']) enableOverride(prototype, name)
  enableOverride(Object.prototype, 'constructor')
  enableOverride(Function.prototype, 'constructor')
}

function enableOverride(prototype: object, name: string): void {
  const property = Object.getOwnPropertyDescriptor(prototype, name)
  if (!property || !('value' in property)) return
  const { value } = property
  const { get, set } = {
    get() {
      return value
    },
    set(this: object, own: unknown) {
      if (this === prototype) throw new TypeError(`${name} is frozen`)
      Object.defineProperty(this, name, { value: own, writable: true, enumerable: true, configurable: true })
    },
  }
  Object.defineProperty(prototype, name, { get, set, enumerable: property.enumerable ?? false, configurable: true })
}

/** Of ECMAScript, and kept by SES from compartments: they tell time, chance, bits of NaN or garbage collection, which a service may know. */
const POWERLESS_NAMES = ['Date', 'Math', 'Temporal', 'Float16Array', 'Float32Array', 'Float64Array', 'Intl', 'WeakRef', 'FinalizationRegistry']

/** Means to make more of the same, which no service needs. */
const UNWANTED: readonly string[] = ['Compartment', 'ModuleSource', 'HandledPromise', 'lockdown']

/** Makes every global a constant: SES binds constants directly, and looks all others up through a proxy, seven times as slow. */
function fixGlobals(globals: object): void {
  for (const [name, property] of Object.entries(Object.getOwnPropertyDescriptors(globals))) {
    if (property.configurable && 'value' in property) Object.defineProperty(globals, name, { writable: false, configurable: false })
  }
}

function evaluate(compartment: Compartment, code: string, source: string): unknown {
  try {
    // On one line with the code, so that its line numbers stay.
    return compartment.evaluate(`(() => { "use strict"; ${code}\nreturn offboxService\n})()\n//# sourceURL=${source}`)
  } catch (error) {
    const found = findForbidden(code)
    if (found) throw new OffboxError('BUNDLE_MALFORMED', `line ${found.line} of the payload: ${found.reason}`)
    if (error instanceof SyntaxError) throw new OffboxError('BUNDLE_MALFORMED', `the payload does not compile: ${error.message}`)
    throw error
  }
}
