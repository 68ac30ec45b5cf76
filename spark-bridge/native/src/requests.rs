//! The messages of `bridge.proto` as Java carries them: bytes.

use jni::Env;
use jni::objects::JByteArray;
use sparkray_proto::bridge;

use crate::error::NativeError;

/// A message argument.
pub(crate) fn message<M: bridge::Message + Default>(
    env: &Env<'_>,
    argument: &JByteArray<'_>,
) -> Result<M, NativeError> {
    Ok(bridge::decode(&env.convert_byte_array(argument)?)?)
}

/// A message for Java.
pub(crate) fn answer<'local>(
    env: &mut Env<'local>,
    message: &impl bridge::Message,
) -> Result<JByteArray<'local>, NativeError> {
    Ok(env.byte_array_from_slice(&bridge::encode(message))?)
}
