/** The shapes shared by everything in proto/gen: codecs over plain objects, and the description of a gRPC method. */

/** How many messages flow each way, as gRPC names it. */
export type MethodKind = 'unary' | 'clientStream' | 'serverStream' | 'bidi'

export interface Codec<P> {
  /** Fields left out take their proto3 default. The result is exact-size: it shares no pool. */
  encode(message: P): Uint8Array
  /** Throws an Error on malformed input. Nothing in the result aliases `bytes` but `bytes` fields. */
  decode(bytes: Uint8Array): Plain<P>
}

export interface Method<Req, Res> {
  /** E.g. "/offbox.v1.Telemetry/Get". */
  readonly path: string
  readonly kind: MethodKind
  readonly request: Codec<Req>
  readonly response: Codec<Res>
}

/**
 * A decoded message: every scalar, list and map present (proto3 defaults filled in), 64-bit integers as numbers (exact up
 * to 2^53), enums as numbers. Message fields are null when absent. Fields declared `optional` and members of a `oneof`
 * are undefined when absent, which the type cannot tell: read those with `??`.
 */
export type Plain<P> = {
  [K in keyof P as K extends '$unknowns' ? never : K]-?: PlainField<NonNullable<P[K]>>
}
type PlainField<F> = F extends Uint8Array
  ? F
  : F extends readonly (infer E)[]
    ? PlainElement<E>[]
    : F extends object
      ? string extends keyof F
        ? { [key: string]: PlainElement<F[string & keyof F]> }
        : Plain<F> | null
      : F
type PlainElement<E> = E extends Uint8Array ? E : E extends object ? Plain<E> : E

interface MessageClass {
  fromObject(object: Record<string, unknown>): unknown
  encode(message: never): { finish(): Uint8Array }
  decode(bytes: Uint8Array): unknown
  toObject(message: never, options: Record<string, unknown>): Record<string, unknown>
}

/** Wraps one generated message class. */
export function codec<P>(type: unknown): Codec<P> {
  const message = type as MessageClass
  return {
    encode: (value) => new Uint8Array(message.encode(message.fromObject(value as Record<string, unknown>) as never).finish()),
    decode: (bytes) => message.toObject(message.decode(bytes) as never, { longs: Number, defaults: true }) as Plain<P>,
  }
}

/** One row of a generated method table. */
export function method<Req, Res>(path: string, kind: MethodKind, request: Codec<Req>, response: Codec<Res>): Method<Req, Res> {
  return { path, kind, request, response }
}
