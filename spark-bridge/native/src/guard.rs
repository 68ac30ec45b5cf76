//! The one way in from Java: a failure becomes an `org.sparkray.SparkRayException`, a panic too, and neither ends the JVM.

use std::any::Any;
use std::sync::OnceLock;

use jni::errors::ErrorPolicy;
use jni::objects::{JClass, JString, JThrowable, JValue};
use jni::refs::Global;
use jni::{Env, EnvUnowned, JavaVM, jni_sig, jni_str};
use sparkray_common::ErrorCode;

use crate::error::NativeError;

/// Found when the library is loaded: native threads and later callers do not see the classes of `--jars`.
static EXCEPTION_CLASS: OnceLock<Global<JClass<'static>>> = OnceLock::new();

/// Says whether the task of a thread was killed; found as early, for the same reason.
static INTERRUPTION_CLASS: OnceLock<Global<JClass<'static>>> = OnceLock::new();

/// Whether Spark has killed the task that the calling thread works for, or interrupted the thread.
pub(crate) fn is_task_interrupted() -> bool {
    let (Some(class), Ok(vm)) = (INTERRUPTION_CLASS.get(), JavaVM::singleton()) else {
        return false;
    };
    let answer: jni::errors::Result<bool> = vm.attach_current_thread(|env| {
        env.call_static_method(class, jni_str!("isInterrupted"), jni_sig!("()Z"), &[])?
            .z()
    });
    answer.unwrap_or(false)
}

/// Remembers the exception's class. Called once, while Java loads the library.
pub(crate) fn remember_classes(env: &mut Env<'_>) -> jni::errors::Result<()> {
    let class = env.find_class(jni_str!("org/sparkray/SparkRayException"))?;
    let class = env.new_global_ref(class)?;
    let interruption = env.find_class(jni_str!("org/sparkray/Interruption"))?;
    let interruption = env.new_global_ref(interruption)?;
    let _ = INTERRUPTION_CLASS.set(interruption);
    // A second load in one process keeps the first.
    let _ = EXCEPTION_CLASS.set(class);
    Ok(())
}

/// Runs the body of a native method. When it fails or panics, the Java exception is pending on return, and the
/// value, which Java does not look at, is the type's default.
pub fn guard<'local, T: Default>(
    mut env: EnvUnowned<'local>,
    body: impl FnOnce(&mut Env<'local>) -> Result<T, NativeError>,
) -> T {
    env.with_env(body).resolve::<Throw>()
}

/// A string argument.
pub(crate) fn text(env: &Env<'_>, argument: &JString<'_>) -> Result<String, NativeError> {
    Ok(argument.try_to_string(env)?)
}

struct Throw;

impl<T: Default> ErrorPolicy<T, NativeError> for Throw {
    type Captures<'unowned_env_local: 'native_method, 'native_method> = ();

    fn on_error<'unowned_env_local: 'native_method, 'native_method>(
        env: &mut Env<'unowned_env_local>,
        (): &mut (),
        error: NativeError,
    ) -> jni::errors::Result<T> {
        throw(env, error.code(), &error.to_string())?;
        Ok(T::default())
    }

    fn on_panic<'unowned_env_local: 'native_method, 'native_method>(
        env: &mut Env<'unowned_env_local>,
        (): &mut (),
        payload: Box<dyn Any + Send + 'static>,
    ) -> jni::errors::Result<T> {
        let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (None, Some(text)) => text.clone(),
            (None, None) => "without a message".to_owned(),
        };
        throw(
            env,
            ErrorCode::Internal,
            &format!("a bug in sparkray's native library: panic {text}"),
        )?;
        Ok(T::default())
    }
}

fn throw(env: &mut Env<'_>, code: ErrorCode, message: &str) -> jni::errors::Result<()> {
    if env.exception_check() {
        // Java code that the body called has thrown: that is the cause.
        return Ok(());
    }
    let Some(class) = EXCEPTION_CLASS.get() else {
        return Ok(());
    };
    let message = env.new_string(message)?;
    let arguments = [JValue::Int(code.number() as i32), JValue::Object(&message)];
    let exception = env.new_object(class, jni_sig!("(ILjava/lang/String;)V"), &arguments)?;
    let exception = env.cast_local::<JThrowable>(exception)?;
    match env.throw(exception) {
        // What a successful throw returns.
        Ok(()) | Err(jni::errors::Error::JavaException) => Ok(()),
        Err(error) => Err(error),
    }
}
